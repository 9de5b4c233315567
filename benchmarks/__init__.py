"""What is measured of the program; nothing here is installed or imported by it."""
