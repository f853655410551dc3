"""Widgets that are not Colab's own need another manager, which has to be asked for."""

from types import SimpleNamespace

_widgets = SimpleNamespace(_installed_url=None)


def enable_custom_widget_manager() -> None:
    _widgets._installed_url = "https://example.org/manager.js"
