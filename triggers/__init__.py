"""What happens after a commit. Its rooms arrive with the trigger layer; nothing here runs yet."""
