"""Generated invoices: pages of eight vendors as somebody would photograph them."""
