"""The classes of the guide, mapped onto the core; nothing below imports them."""
