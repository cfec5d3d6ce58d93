"""What people look at in the terminal: `t3d decode` and `t3d status`. Nothing here decides what a stage makes."""
