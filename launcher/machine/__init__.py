"""What a machine is to be: options and their values, TOML files, and the plan made of them."""
