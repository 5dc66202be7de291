"""Who there is: the presence of an instance, the directory of all, and the control plane that keeps it true."""
