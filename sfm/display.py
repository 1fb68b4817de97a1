"""Whether there is a display that a window could be shown on."""

import ctypes
import os
import sys
import threading

from pipeline.errors import require

_SERVERS = {
    "WAYLAND_DISPLAY": ("libwayland-client.so.0", "wl_display_connect", "wl_display_disconnect"),
    "DISPLAY": ("libX11.so.6", "XOpenDisplay", "XCloseDisplay"),
}
_PATIENCE_S = 10.0


def require_display(instead: str) -> None:
    """Check that a Wayland or X11 server answers, as GLFW does; Open3D draws into memory for ever where none does.

    Args:
        instead: what to do without one.

    Raises:
        LumenError: if neither `DISPLAY` nor `WAYLAND_DISPLAY` is set, or no server answers there.
    """
    if not sys.platform.startswith("linux"):
        return
    named = {name: os.environ[name] for name in _SERVERS if os.environ.get(name)}
    require(bool(named), f"there is no display to show it on: {instead}")
    places = ", ".join(f"{name}={value}" for name, value in named.items())
    require(any(map(_answers, named)), f"no display answers at {places}: {instead}")


def _answers(name: str) -> bool:
    """Whether the server of an environment variable accepts a client, within some seconds."""
    connected = threading.Event()
    # A host that drops packets keeps the library waiting for minutes.
    client = threading.Thread(target=_connect, args=(*_SERVERS[name], connected), daemon=True)
    client.start()
    client.join(_PATIENCE_S)
    return connected.is_set()


def _connect(library_name: str, connect: str, disconnect: str, connected: threading.Event) -> None:
    try:
        library = ctypes.CDLL(library_name)
    except OSError:
        # GLFW loads the same library.
        return
    function = getattr(library, connect)
    function.argtypes, function.restype = [ctypes.c_char_p], ctypes.c_void_p
    display = function(None)
    if display:
        connected.set()
        getattr(library, disconnect)(ctypes.c_void_p(display))
