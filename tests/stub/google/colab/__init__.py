"""As much of Colab's own package as the book and anywidget touch."""
