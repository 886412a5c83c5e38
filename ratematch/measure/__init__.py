"""Request records to figures. Pure: arrays in, values out."""
