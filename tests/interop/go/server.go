package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	_ "google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	pb "interop/testing"
)

type server struct {
	pb.UnimplementedTestServiceServer
}

func payload(size int32) *pb.Payload { return &pb.Payload{Body: make([]byte, size)} }

// echoed takes what the client wants back out of its metadata.
func echoed(ctx context.Context) (initial, trailing metadata.MD) {
	request, _ := metadata.FromIncomingContext(ctx)
	initial, trailing = metadata.MD{}, metadata.MD{}
	initial.Append(initialKey, request.Get(initialKey)...)
	trailing.Append(trailingKey, request.Get(trailingKey)...)
	return initial, trailing
}

func wanted(response *pb.EchoStatus) error {
	if response.GetCode() == 0 {
		return nil
	}
	return status.Error(codes.Code(response.GetCode()), response.GetMessage())
}

func (*server) EmptyCall(context.Context, *pb.Empty) (*pb.Empty, error) { return &pb.Empty{}, nil }

func (*server) UnaryCall(ctx context.Context, request *pb.SimpleRequest) (*pb.SimpleResponse, error) {
	initial, trailing := echoed(ctx)
	if err := grpc.SendHeader(ctx, initial); err != nil {
		return nil, err
	}
	if err := grpc.SetTrailer(ctx, trailing); err != nil {
		return nil, err
	}
	if err := wanted(request.GetResponseStatus()); err != nil {
		return nil, err
	}
	return &pb.SimpleResponse{Payload: payload(request.GetResponseSize())}, nil
}

type sender interface {
	Send(*pb.StreamingOutputCallResponse) error
}

func answer(stream sender, request *pb.StreamingOutputCallRequest) error {
	for _, each := range request.GetResponseParameters() {
		time.Sleep(time.Duration(each.GetIntervalUs()) * time.Microsecond)
		if err := stream.Send(&pb.StreamingOutputCallResponse{Payload: payload(each.GetSize())}); err != nil {
			return err
		}
	}
	return nil
}

func (*server) StreamingOutputCall(
	request *pb.StreamingOutputCallRequest, stream pb.TestService_StreamingOutputCallServer,
) error {
	return answer(stream, request)
}

func (*server) StreamingInputCall(stream pb.TestService_StreamingInputCallServer) error {
	total := 0
	for {
		request, err := stream.Recv()
		if err == io.EOF {
			return stream.SendAndClose(&pb.StreamingInputCallResponse{AggregatedPayloadSize: int32(total)})
		}
		if err != nil {
			return err
		}
		total += len(request.GetPayload().GetBody())
	}
}

func (*server) FullDuplexCall(stream pb.TestService_FullDuplexCallServer) error {
	initial, trailing := echoed(stream.Context())
	if err := stream.SendHeader(initial); err != nil {
		return err
	}
	stream.SetTrailer(trailing)
	for {
		request, err := stream.Recv()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := wanted(request.GetResponseStatus()); err != nil {
			return err
		}
		if err := answer(stream, request); err != nil {
			return err
		}
	}
}

func serve() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	service := grpc.NewServer()
	pb.RegisterTestServiceServer(service, &server{})
	if err := service.Serve(listener); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
