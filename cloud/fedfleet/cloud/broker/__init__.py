"""The broker of a fleet: mosquitto's settings from a PKI folder, and how a device that is revoked is cut off there."""
