"""Contexts from the configuration file of rabbitmqadmin, or from a URL.

Version 1 of rabbitmqadmin reads an INI file, version 2 TOML, from the same place
(https://www.rabbitmq.com/docs/management-cli). Both name the HTTP API: AMQP is expected on its default port.
"""

from __future__ import annotations

import configparser
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from rmqkit.address import DEFAULT_URL, read_file
from rmqkit.contexts import split_password
from rmqkit.errors import SettingsError

DEFAULT_FILE = "~/.rabbitmqadmin.conf"
# The key of a context, and its names in version 2 and in version 1.
_NAMES = {
    "hostname": ("hostname",),
    "port": ("port",),
    "path_prefix": ("path_prefix",),
    "base_uri": ("base_uri",),
    "username": ("username",),
    "password": ("password",),
    "vhost": ("virtual_host", "vhost", "declare_vhost"),
    "tls": ("tls", "ssl"),
    "tls_ca_file": ("ca_certificate_bundle_path", "ssl_ca_cert_file"),
    "tls_cert_file": ("client_certificate_file_path", "ssl_cert_file"),
    "tls_key_file": ("client_private_key_file_path", "ssl_key_file"),
    "tls_insecure": ("ssl_insecure",),
}
_TRUE = ("1", "yes", "true", "on")  # as configparser reads them


def read(source: str | None, name: str | None = None) -> dict[str, dict[str, Any]]:
    """Return the values of contexts by name, with a `password` where there is one, from a file or a URL.

    `name` is that of the context of a URL. Raises SettingsError, which holds no value.
    """
    if source and "://" in source:
        return _of_url(source, name)
    if name:
        raise SettingsError("--name needs a URL: the nodes in a file have names")
    path = str(Path(source or DEFAULT_FILE).expanduser())
    text = read_file("FILE", path).decode(errors="replace")
    try:
        root: Mapping[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        try:
            parser = configparser.ConfigParser(interpolation=None)
            parser.read_string(text)
        except configparser.Error:
            raise SettingsError(f"{path}: neither TOML nor an INI file") from None
        root = {section: dict(parser[section]) for section in parser.sections()}
    nodes = {node: values for node, values in root.items() if isinstance(values, dict)}
    if not nodes:
        raise SettingsError(f"{path} contains no nodes")
    return {node: _of_node(values) for node, values in nodes.items()}


def _of_url(url: str, name: str | None) -> dict[str, dict[str, Any]]:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "localhost", parts.port
    except ValueError:
        raise SettingsError("not a URL", advice=f"Write {DEFAULT_URL} or http://localhost:15672.") from None
    name = name or (host if re.fullmatch(r"[\d.]+", host) else host.partition(".")[0])
    if parts.scheme not in ("http", "https"):
        urls, password = split_password([url])
        return {name: {"url": urls} | ({"password": password} if password else {})}
    node = {"hostname": host, "port": port, "tls": parts.scheme == "https", "path_prefix": parts.path}
    login = {"username": parts.username, "password": parts.password}
    return {name: _of_node(node | {key: unquote(value) for key, value in login.items() if value})}


def _of_node(node: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a context for a node of either version; the defaults are those of rabbitmqadmin."""
    found = {key: next((node[each] for each in names if node.get(each)), None) for key, names in _NAMES.items()}
    tls, insecure = (str(found[key]).lower() in _TRUE for key in ("tls", "tls_insecure"))
    if found["base_uri"]:
        parts = urlsplit(str(found["base_uri"]))
        found |= {"hostname": parts.hostname, "port": parts.port or found["port"]}
        tls = tls or parts.scheme == "https"
    host = str(found["hostname"] or "localhost")
    host = f"[{host}]" if ":" in host else host
    username, password = str(found["username"] or "guest"), str(found["password"] or "")
    is_guest = username == "guest" and password in ("", "guest")
    prefix = str(found["path_prefix"] or "").rstrip("/").removesuffix("/api")
    login = "" if is_guest else f"{quote(username, safe='')}@"
    values: dict[str, Any] = {
        "url": [f"amqp{'s' * tls}://{login}{host}"],
        "api_url": f"http{'s' * tls}://{host}:{found['port'] or (15671 if tls else 15672)}{prefix}",
    }
    values |= {"vhost": str(found["vhost"])} if found["vhost"] not in (None, "/") else {}
    values |= {key: str(Path(str(found[key])).expanduser()) for key in _NAMES if key.endswith("_file") and found[key]}
    values |= {"tls_insecure": True} if insecure else {}
    return values | ({} if is_guest or not password else {"password": password})
