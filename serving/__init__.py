"""What people read: results in a terminal."""
