"""Problems that networks of this package are trained on, one file each."""
