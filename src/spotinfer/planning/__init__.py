"""What to rent. Pure: offers and a model in, ranked candidates out."""
