"""How objects show themselves in a notebook: small HTML that needs no script, in the colors of the page around it."""
