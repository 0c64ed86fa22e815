"""Listeners: the control plane, the data plane, and who may speak to them."""
