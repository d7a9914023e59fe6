// grpc.testing.TestService on grpc-go.
//
//	interop server          serves it, and prints its port
//	interop client TARGET   plays the official interop cases, and prints {CASE: "ok" | what went wrong}
//	interop zstd TARGET     makes one call that is compressed by zstd, and prints what came
package main

import (
	"fmt"
	"os"
)

const (
	initialKey  = "x-grpc-test-echo-initial"
	trailingKey = "x-grpc-test-echo-trailing-bin"
)

func main() {
	switch {
	case len(os.Args) == 2 && os.Args[1] == "server":
		serve()
	case len(os.Args) == 3 && os.Args[1] == "client":
		play(os.Args[2])
	case len(os.Args) == 3 && os.Args[1] == "zstd":
		playZstd(os.Args[2])
	default:
		fmt.Fprintln(os.Stderr, "usage: interop server | interop client HOST:PORT | interop zstd HOST:PORT")
		os.Exit(2)
	}
}
