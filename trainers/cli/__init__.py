"""The programs: one module a command, `main(argv)` each. Nothing heavy is imported before a command really runs."""
