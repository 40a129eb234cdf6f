"""Build the plans of a bundle for a device, or write a kit from which the device builds them."""
