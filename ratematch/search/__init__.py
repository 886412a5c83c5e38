"""Which measurement next: what unmeasured rates are likely to be, and what measuring them would be worth. Pure."""
