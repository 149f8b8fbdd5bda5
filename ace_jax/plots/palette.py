"""The colours of all figures: Okabe and Ito's, which colour-blind readers can tell apart."""

BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
YELLOW, SKY, BLACK = "#E69F00", "#56B4E9", "#000000"

PALETTE = (BLUE, ORANGE, GREEN, PURPLE, YELLOW, SKY, BLACK)
"""In the order in which curves take them."""
KEPT, BROKEN = BLUE, ORANGE
"""Of symmetries that the data keep, and break."""
