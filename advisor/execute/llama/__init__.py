"""llama.cpp's own programs: finding, asking, proving, compiling and using them."""
