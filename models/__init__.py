"""Everything torch: base networks, patches, preprocessing, engines, training. Usable alone as a library."""
