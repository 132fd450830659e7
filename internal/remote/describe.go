package remote

import (
	"context"
	"slices"

	"google.golang.org/grpc"

	"hpcc.dev/hpcc/internal/digest"
	workerv1 "hpcc.dev/hpcc/proto/hpcc/worker/v1"
)

// Describe returns the digests of files of an image, in the order of their
// absolute paths; what is no file of the image has the zero Digest. What a
// worker says of an image is that worker's word: nothing here can check it.
func (c *Client) Describe(ctx context.Context, image string, paths []string) ([]digest.Digest, error) {
	if err := checkImage(image); err != nil {
		return nil, err
	}
	var all []digest.Digest
	for part := range slices.Chunk(paths, workerv1.MaxDescribe) {
		var files []digest.Digest
		err := c.try(ctx, image, func(a *assignment) (err error) {
			files, err = c.describe(ctx, a, image, part)
			return err
		})
		if err != nil {
			return nil, err
		}
		all = append(all, files...)
	}
	return all, nil
}

func (c *Client) describe(ctx context.Context, a *assignment, image string, paths []string) ([]digest.Digest, error) {
	l, err := c.link(a)
	if err != nil {
		return nil, err
	}
	defer c.conns.put(l)
	codec := newCodec()
	m, err := workerv1.NewWorkerServiceClient(l.conn).Describe(authorize(ctx, a.token),
		&workerv1.DescribeRequest{Image: image, Paths: paths}, grpc.ForceCodecV2(codec))
	if err != nil {
		return nil, c.notBegun(ctx, l, err, codec)
	}
	if len(m.GetFiles()) != len(paths) {
		return nil, lie("%d files where %d were asked for", len(m.GetFiles()), len(paths))
	}
	files := make([]digest.Digest, len(paths))
	for i, f := range m.GetFiles() {
		if len(f.GetSha256()) == 0 {
			continue
		}
		if files[i], err = digest.FromBytes(f.GetSha256(), f.GetSize()); err != nil {
			return nil, lie("file %q has no digest", paths[i])
		}
	}
	return files, nil
}
