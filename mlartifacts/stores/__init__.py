"""One room a store: its URIs, its settings, and its driver under this package's promises."""
