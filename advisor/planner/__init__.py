"""From machine, model and goal to ranked plans, each explained, and to reasons for what was left out."""
