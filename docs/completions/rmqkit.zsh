#compdef rmqkit
eval $(env _TYPER_COMPLETE_ARGS="${words[1,$CURRENT]}" _RMQKIT_COMPLETE=complete_zsh rmqkit)
