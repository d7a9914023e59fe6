package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"reflect"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	pb "interop/testing"
)

const (
	limit         = 20 * time.Second // for a case
	largeRequest  = 271828
	largeResponse = 314159
	statusText    = "test status message"
	specialText   = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n"
)

var (
	requests  = []int32{27182, 8, 1828, 45904}
	responses = []int32{31415, 9, 2653, 58979}
)

type client struct {
	pb.TestServiceClient
	unserved pb.UnimplementedServiceClient
}

type testCase struct {
	name string
	play func(context.Context, client) error
}

func large() *pb.SimpleRequest {
	return &pb.SimpleRequest{ResponseSize: largeResponse, Payload: payload(largeRequest)}
}

func output(size, request int32) *pb.StreamingOutputCallRequest {
	parameters := []*pb.ResponseParameters{{Size: size}}
	return &pb.StreamingOutputCallRequest{ResponseParameters: parameters, Payload: payload(request)}
}

func equal(got, want interface{}) error {
	if !reflect.DeepEqual(got, want) {
		return fmt.Errorf("%v, not %v", got, want)
	}
	return nil
}

func code(err error, want codes.Code) error { return equal(status.Code(err), want) }

func fails(err error, want codes.Code, message string) error {
	if wrong := code(err, want); wrong != nil {
		return wrong
	}
	return equal(status.Convert(err).Message(), message)
}

func callLarge(ctx context.Context, c client, request *pb.SimpleRequest, options ...grpc.CallOption) error {
	reply, err := c.UnaryCall(ctx, request, options...)
	if err != nil {
		return err
	}
	if !bytes.Equal(reply.GetPayload().GetBody(), make([]byte, largeResponse)) {
		return fmt.Errorf("a payload of %d bytes", len(reply.GetPayload().GetBody()))
	}
	return nil
}

type receiver interface {
	Recv() (*pb.StreamingOutputCallResponse, error)
}

// receives reads a stream of responses to its end, which are to have these sizes.
func receives(stream receiver, want []int32) error {
	found, err := sizes(stream)
	if err != nil {
		return err
	}
	return equal(found, want)
}

// sizes reads a stream of responses to its end.
func sizes(stream receiver) ([]int32, error) {
	found := []int32{}
	for {
		reply, err := stream.Recv()
		if err == io.EOF {
			return found, nil
		}
		if err != nil {
			return found, err
		}
		found = append(found, int32(len(reply.GetPayload().GetBody())))
	}
}

func upload(ctx context.Context, c client, compressed bool, options ...grpc.CallOption) (int32, error) {
	stream, err := c.StreamingInputCall(ctx, options...)
	if err != nil {
		return 0, err
	}
	for _, size := range requests {
		request := &pb.StreamingInputCallRequest{Payload: payload(size)}
		request.ExpectCompressed = &pb.BoolValue{Value: compressed}
		if err := stream.Send(request); err != nil && err != io.EOF { // io.EOF: CloseAndRecv has the status
			return 0, err
		}
	}
	reply, err := stream.CloseAndRecv()
	return reply.GetAggregatedPayloadSize(), err
}

func checkEcho(initial, trailing metadata.MD) error {
	if err := equal(initial.Get(initialKey), []string{"test_initial_metadata_value"}); err != nil {
		return err
	}
	return equal(trailing.Get(trailingKey), []string{"\xab\xab\xab"})
}

var cases = []testCase{
	{"empty_unary", func(ctx context.Context, c client) error {
		_, err := c.EmptyCall(ctx, &pb.Empty{})
		return err
	}},
	{"large_unary", func(ctx context.Context, c client) error { return callLarge(ctx, c, large()) }},
	{"cacheable_unary", func(ctx context.Context, c client) error {
		var initial metadata.MD
		if _, err := c.CacheableUnaryCall(ctx, &pb.SimpleRequest{}, grpc.Header(&initial)); err != nil {
			return err
		}
		return equal(initial.Get("cache-control"), []string{"max-age=60, public"})
	}},
	{"client_compressed_unary", func(ctx context.Context, c client) error {
		request := large()
		request.ExpectCompressed = &pb.BoolValue{Value: true}
		_, err := c.UnaryCall(ctx, request)
		if wrong := code(err, codes.InvalidArgument); wrong != nil {
			return wrong
		}
		return callLarge(ctx, c, request, grpc.UseCompressor(gzip.Name))
	}},
	{"server_compressed_unary", func(ctx context.Context, c client) error {
		request := large()
		request.ResponseCompressed = &pb.BoolValue{Value: true}
		return callLarge(ctx, c, request)
	}},
	{"client_streaming", func(ctx context.Context, c client) error {
		total, err := upload(ctx, c, false)
		if err != nil {
			return err
		}
		return equal(total, int32(74922))
	}},
	{"client_compressed_streaming", func(ctx context.Context, c client) error {
		_, err := upload(ctx, c, true)
		if wrong := code(err, codes.InvalidArgument); wrong != nil {
			return wrong
		}
		total, err := upload(ctx, c, true, grpc.UseCompressor(gzip.Name))
		if err != nil {
			return err
		}
		return equal(total, int32(74922))
	}},
	{"server_streaming", func(ctx context.Context, c client) error {
		request := &pb.StreamingOutputCallRequest{}
		for _, size := range responses {
			request.ResponseParameters = append(request.ResponseParameters, &pb.ResponseParameters{Size: size})
		}
		stream, err := c.StreamingOutputCall(ctx, request)
		if err != nil {
			return err
		}
		return receives(stream, responses)
	}},
	{"server_compressed_streaming", func(ctx context.Context, c client) error {
		compressed := &pb.ResponseParameters{Size: 31415, Compressed: &pb.BoolValue{Value: true}}
		parameters := []*pb.ResponseParameters{compressed, {Size: 92653}}
		stream, err := c.StreamingOutputCall(ctx, &pb.StreamingOutputCallRequest{ResponseParameters: parameters})
		if err != nil {
			return err
		}
		return receives(stream, []int32{31415, 92653})
	}},
	{"ping_pong", func(ctx context.Context, c client) error {
		stream, err := c.FullDuplexCall(ctx)
		if err != nil {
			return err
		}
		for turn, size := range responses {
			if err := stream.Send(output(size, requests[turn])); err != nil {
				return err
			}
			reply, err := stream.Recv()
			if err != nil {
				return err
			}
			if err := equal(int32(len(reply.GetPayload().GetBody())), size); err != nil {
				return err
			}
		}
		if err := stream.CloseSend(); err != nil {
			return err
		}
		return receives(stream, []int32{})
	}},
	{"empty_stream", func(ctx context.Context, c client) error {
		stream, err := c.FullDuplexCall(ctx)
		if err != nil {
			return err
		}
		if err := stream.CloseSend(); err != nil {
			return err
		}
		return receives(stream, []int32{})
	}},
	{"custom_metadata", func(ctx context.Context, c client) error {
		ctx = metadata.AppendToOutgoingContext(ctx, initialKey, "test_initial_metadata_value", trailingKey, "\xab\xab\xab")
		var initial, trailing metadata.MD
		if err := callLarge(ctx, c, large(), grpc.Header(&initial), grpc.Trailer(&trailing)); err != nil {
			return err
		}
		if err := checkEcho(initial, trailing); err != nil {
			return err
		}
		stream, err := c.FullDuplexCall(ctx)
		if err != nil {
			return err
		}
		if err := stream.Send(output(largeResponse, largeRequest)); err != nil {
			return err
		}
		if err := stream.CloseSend(); err != nil {
			return err
		}
		if initial, err = stream.Header(); err != nil {
			return err
		}
		if _, err := sizes(stream); err != nil {
			return err
		}
		return checkEcho(initial, stream.Trailer())
	}},
	{"status_code_and_message", func(ctx context.Context, c client) error {
		response := &pb.EchoStatus{Code: int32(codes.Unknown), Message: statusText}
		_, err := c.UnaryCall(ctx, &pb.SimpleRequest{ResponseStatus: response})
		if wrong := fails(err, codes.Unknown, statusText); wrong != nil {
			return wrong
		}
		stream, err := c.FullDuplexCall(ctx)
		if err != nil {
			return err
		}
		if err := stream.Send(&pb.StreamingOutputCallRequest{ResponseStatus: response}); err != nil {
			return err
		}
		_, err = sizes(stream)
		return fails(err, codes.Unknown, statusText)
	}},
	{"special_status_message", func(ctx context.Context, c client) error {
		response := &pb.EchoStatus{Code: int32(codes.Unknown), Message: specialText}
		_, err := c.UnaryCall(ctx, &pb.SimpleRequest{ResponseStatus: response})
		return fails(err, codes.Unknown, specialText)
	}},
	{"unimplemented_method", func(ctx context.Context, c client) error {
		_, err := c.UnimplementedCall(ctx, &pb.Empty{})
		return code(err, codes.Unimplemented)
	}},
	{"unimplemented_service", func(ctx context.Context, c client) error {
		_, err := c.unserved.UnimplementedCall(ctx, &pb.Empty{})
		return code(err, codes.Unimplemented)
	}},
	{"cancel_after_begin", func(ctx context.Context, c client) error {
		ctx, cancel := context.WithCancel(ctx)
		stream, err := c.StreamingInputCall(ctx)
		if err != nil {
			return err
		}
		cancel()
		_, err = stream.CloseAndRecv()
		return code(err, codes.Canceled)
	}},
	{"cancel_after_first_response", func(ctx context.Context, c client) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		stream, err := c.FullDuplexCall(ctx)
		if err != nil {
			return err
		}
		if err := stream.Send(output(responses[0], requests[0])); err != nil {
			return err
		}
		if _, err := stream.Recv(); err != nil {
			return err
		}
		cancel()
		_, err = stream.Recv()
		return code(err, codes.Canceled)
	}},
	{"timeout_on_sleeping_server", func(ctx context.Context, c client) error {
		ctx, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		defer cancel()
		parameters := []*pb.ResponseParameters{{Size: 31415, IntervalUs: 10000000}}
		stream, err := c.FullDuplexCall(ctx)
		if err == nil {
			err = stream.Send(&pb.StreamingOutputCallRequest{ResponseParameters: parameters})
		}
		if err == nil {
			_, err = stream.Recv()
		}
		return code(err, codes.DeadlineExceeded)
	}},
	{"concurrent_large_unary", func(ctx context.Context, c client) error {
		var group sync.WaitGroup
		failures := make(chan error, 300)
		for index := 0; index < cap(failures); index++ {
			group.Add(1)
			go func() {
				defer group.Done()
				if err := callLarge(ctx, c, large()); err != nil {
					failures <- err
				}
			}()
		}
		group.Wait()
		close(failures)
		return <-failures // nil where there is none
	}},
}

func dial(target string, options ...grpc.DialOption) (client, func() error) {
	connection, err := grpc.Dial(target, append(options, grpc.WithInsecure())...)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	stubs := client{pb.NewTestServiceClient(connection), pb.NewUnimplementedServiceClient(connection)}
	return stubs, connection.Close
}

func play(target string) {
	stubs, closeAll := dial(target)
	defer closeAll()
	results := map[string]string{}
	for _, each := range cases {
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		results[each.name] = "ok"
		if err := each.play(ctx, stubs); err != nil {
			results[each.name] = err.Error()
		}
		cancel()
	}
	if err := json.NewEncoder(os.Stdout).Encode(results); err != nil {
		os.Exit(1)
	}
}
