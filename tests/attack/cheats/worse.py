"""An honest idea that is worse."""

SMOOTHING = 0.0002
