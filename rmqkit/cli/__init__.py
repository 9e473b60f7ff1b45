"""The command line: parse into one typed object, call one function, render, exit."""
