/*
 * Send and receive raw Ethernet frames, so that a test can forge any of them: a MAC, an IP address, an ARP reply, a DHCP
 * offer, a router advertisement.
 *
 *   rawsend IFACE HEX [COUNT [INTERVAL_MS]]   send the frame (destination MAC first, no FCS; ':' and spaces are skipped)
 *   rawrecv IFACE SECONDS [ETHERTYPE]         print "frame LENGTH HEX" per frame that arrives, then "frames TOTAL"
 *
 * One program, the name it is called by decides. rawrecv is promiscuous, prints "listening" once the socket is bound, and
 * does not show what this host sends. ETHERTYPE is hexadecimal (0806 for ARP); every type is shown without it.
 * See packet(7).
 */
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <libgen.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MAX_FRAME 65536
#define MIN_FRAME 14

static void fail(const char *what)
{
	fprintf(stderr, "rawframe: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void usage(void)
{
	fprintf(stderr, "usage: rawsend IFACE HEX [COUNT [INTERVAL_MS]] | rawrecv IFACE SECONDS [ETHERTYPE]\n");
	exit(2);
}

static int packet_socket(const char *iface, int protocol, struct sockaddr_ll *address)
{
	int fd = socket(AF_PACKET, SOCK_RAW, htons(protocol));

	if (fd < 0)
		fail("socket");
	memset(address, 0, sizeof(*address));
	address->sll_family = AF_PACKET;
	address->sll_protocol = htons(protocol);
	address->sll_ifindex = if_nametoindex(iface);
	if (address->sll_ifindex == 0)
		fail(iface);
	return fd;
}

static size_t parse_hex(const char *text, unsigned char *frame)
{
	size_t nibbles = 0;

	for (; *text; text++) {
		int c = tolower((unsigned char)*text);

		if (c == ':' || isspace(c))
			continue;
		if (!isxdigit(c) || nibbles / 2 >= MAX_FRAME)
			usage();
		c = c <= '9' ? c - '0' : c - 'a' + 10;
		if (nibbles % 2 == 0)
			frame[nibbles / 2] = (unsigned char)(c << 4);
		else
			frame[nibbles / 2] |= (unsigned char)c;
		nibbles++;
	}
	if (nibbles % 2 != 0 || nibbles / 2 < MIN_FRAME)
		usage();
	return nibbles / 2;
}

static int send_frames(int argc, char **argv)
{
	static unsigned char frame[MAX_FRAME];
	struct sockaddr_ll address;
	size_t length = parse_hex(argv[2], frame);
	long count = argc > 3 ? strtol(argv[3], NULL, 10) : 1;
	long interval_ms = argc > 4 ? strtol(argv[4], NULL, 10) : 0;
	struct timespec interval = {interval_ms / 1000, interval_ms % 1000 * 1000000L};
	int fd = packet_socket(argv[1], 0, &address);

	for (long sent = 0; sent < count; sent++) {
		if (sent > 0 && interval_ms > 0)
			nanosleep(&interval, NULL);
		if (sendto(fd, frame, length, 0, (struct sockaddr *)&address, sizeof(address)) < 0)
			fail("sendto");
	}
	printf("sent %ld\n", count);
	return 0;
}

static long long now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

static int receive_frames(int argc, char **argv)
{
	static unsigned char frame[MAX_FRAME];
	struct sockaddr_ll address;
	long ethertype = argc > 3 ? strtol(argv[3], NULL, 16) : -1;
	long long end = now_ms() + (long long)(strtod(argv[2], NULL) * 1000);
	long total = 0;
	/* Every type: a socket for one type sees nothing on the port of a bridge. */
	int fd = packet_socket(argv[1], ETH_P_ALL, &address);
	struct packet_mreq promiscuous = {.mr_ifindex = address.sll_ifindex, .mr_type = PACKET_MR_PROMISC};
	struct pollfd ready = {.fd = fd, .events = POLLIN};

	if (bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		fail("bind");
	if (setsockopt(fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &promiscuous, sizeof(promiscuous)) < 0)
		fail("promiscuous");
	setvbuf(stdout, NULL, _IOLBF, 0);
	puts("listening");
	for (;;) {
		long long left = end - now_ms();
		struct sockaddr_ll from;
		socklen_t from_length = sizeof(from);
		ssize_t length;

		if (left <= 0)
			break;
		if (poll(&ready, 1, (int)left) < 0)
			fail("poll");
		if (!(ready.revents & POLLIN))
			continue;
		length = recvfrom(fd, frame, sizeof(frame), 0, (struct sockaddr *)&from, &from_length);
		if (length < 0)
			fail("recvfrom");
		if (from.sll_pkttype == PACKET_OUTGOING || length < MIN_FRAME)
			continue;
		if (ethertype >= 0 && (frame[12] << 8 | frame[13]) != ethertype)
			continue;
		total++;
		printf("frame %zd ", length);
		for (ssize_t i = 0; i < length; i++)
			printf("%02x", frame[i]);
		putchar('\n');
	}
	printf("frames %ld\n", total);
	return 0;
}

int main(int argc, char **argv)
{
	const char *name = basename(argv[0]);

	if (argc < 3)
		usage();
	if (strcmp(name, "rawsend") == 0)
		return send_frames(argc, argv);
	if (strcmp(name, "rawrecv") == 0)
		return receive_frames(argc, argv);
	usage();
}
