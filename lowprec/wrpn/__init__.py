"""Wide reduced-precision networks."""
