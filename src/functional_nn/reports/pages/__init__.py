"""Reports as single HTML pages. They need the extra ``[plots]``."""
