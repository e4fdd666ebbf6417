"""What subcommands have in common: model files, tables and settings in, posteriors out."""
