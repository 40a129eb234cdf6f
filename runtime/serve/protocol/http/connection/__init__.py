"""What happens below a request on a connection: time limits of reading and writing, small writes joined."""
