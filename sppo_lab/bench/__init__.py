"""How fast the loop is, side by side with TRL's and with the matrix products that it must do."""
