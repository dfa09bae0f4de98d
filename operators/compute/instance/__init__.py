"""One instance: from what is seen of it to its work object, its ports, its status and its end."""
