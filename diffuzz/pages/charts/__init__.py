"""Pictures, each as wide as its place: shapes are stretched, lines keep their width, and text is HTML beside them."""
