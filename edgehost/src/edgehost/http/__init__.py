"""HTTP/1.1 both ways: the server that calls guests, and the client they call out with."""
