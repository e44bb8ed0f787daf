"""The command line: commands that read files, call the library, show progress and write files."""
