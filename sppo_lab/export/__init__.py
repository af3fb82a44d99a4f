"""Taking a run out of the lab, to go on with it at a scale that the lab does not reach."""
