package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sync/atomic"

	"github.com/klauspost/compress/zstd"
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/metadata"
)

// zstdCodec is a compressor of grpc-go; a server answers with it where the request came so.
type zstdCodec struct{ decompressed int32 }

var registered = &zstdCodec{}

func init() { encoding.RegisterCompressor(registered) }

func (*zstdCodec) Name() string { return "zstd" }

func (*zstdCodec) Compress(to io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(to) }

func (codec *zstdCodec) Decompress(from io.Reader) (io.Reader, error) {
	atomic.AddInt32(&codec.decompressed, 1)
	return zstd.NewReader(from, zstd.WithDecoderConcurrency(1))
}

// playZstd sends a large request by zstd, asks for such a reply, and prints what came and how many messages were so.
func playZstd(target string) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	ctx = metadata.AppendToOutgoingContext(ctx, "x-compression", "zstd")
	stubs, closeAll := dial(target, grpc.WithDefaultCallOptions(grpc.UseCompressor("zstd")))
	defer closeAll()
	reply, err := stubs.UnaryCall(ctx, large())
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	found := map[string]interface{}{
		"size":         len(reply.GetPayload().GetBody()),
		"username":     reply.GetUsername(),
		"decompressed": atomic.LoadInt32(&registered.decompressed),
	}
	if err := json.NewEncoder(os.Stdout).Encode(found); err != nil {
		os.Exit(1)
	}
}
