"""Speed, as ratios measured in one run: `make bench`. Never asserted in a test, since machines differ."""
