"""Why shortcuts let networks be deep: measured at initialisation, in training and afterwards."""
