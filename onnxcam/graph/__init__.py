"""Reading and editing a graph; nothing here runs one."""
