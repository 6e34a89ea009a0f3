"""llama.cpp as programs: what a build can do, its command lines, and which provider of it to take."""
