"""Pure data: shapes, words and quantities. No I/O."""
