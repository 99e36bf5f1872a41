"""What a message is: values and bytes.  No memory between messages, no I/O, no clock."""
