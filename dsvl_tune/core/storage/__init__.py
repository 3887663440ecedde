"""Files and folders: written whole, locked, cached, and never over what is not ours."""
