"""RunPod by its REST interface version 2."""
