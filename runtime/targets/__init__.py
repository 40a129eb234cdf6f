"""The devices that plans are for, and what here builds for them."""
