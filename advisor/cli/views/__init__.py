"""What a person sees of each answer, one file a subject."""
