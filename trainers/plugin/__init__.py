"""Other people's toolboxes: `CasPL_<Host>` for any registered host, injection into its model, Dassl compatibility."""
