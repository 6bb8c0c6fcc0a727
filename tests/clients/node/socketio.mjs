// socket.io with its Redis adapter, unchanged: two servers, clients on both, each message arrives exactly once.
// TEST_ADAPTER names the adapter and the client library under it.
import { createServer } from 'node:http'
import { createAdapter, createShardedAdapter } from '@socket.io/redis-adapter'
import Redis from 'ioredis'
import { createClient } from 'redis'
import { Server } from 'socket.io'
import { io } from 'socket.io-client'
import { assert, host, port, main, until } from './common.mjs'

const [kind, library, RESP] = process.env.TEST_ADAPTER.split('-')
const range = n => Array.from({ length: n }, (_, i) => i)

async function redisClient() {
  if (library === 'ioredis') return new Redis({ host, port })
  const client = createClient({ socket: { host, port }, RESP: Number(RESP) })
  client.on('error', () => {})
  return client.connect()
}

async function startServer(n) {
  const [pub, sub] = [await redisClient(), await redisClient()]
  const sharded = kind === 'sharded'
  const adapter = sharded ? createShardedAdapter(pub, sub) : createAdapter(pub, sub, { requestsTimeout: 30_000 })
  const http = createServer()
  await new Promise(resolve => http.listen(0, '127.0.0.1', resolve))
  const server = new Server(http, { adapter })
  server.name = `server ${n}`
  server.on('connection', socket => {
    socket.on('join', (room, done) => { Promise.resolve(socket.join(room)).then(done) })
    socket.on('leave', (room, done) => { Promise.resolve(socket.leave(room)).then(done) })
    socket.on('say', (room, words) => socket.to(room).emit('words', words))
    socket.on('question', (words, answer) => answer(`${words} from ${server.name}`))
  })
  server.on('sum', (a, b, answer) => answer(a + b))
  return server
}

async function connectClient(server) {
  const socket = io(`http://127.0.0.1:${server.httpServer.address().port}`, { transports: ['websocket'] })
  socket.heard = []
  socket.probes = new Set()
  socket.on('words', words => socket.heard.push(words))
  socket.on('probe', name => socket.probes.add(name))
  await new Promise(resolve => socket.on('connect', resolve))
  return socket
}

const servers = await Promise.all([0, 1].map(startServer))
// Clients 0 to 9 take turns between the servers.
const clients = await Promise.all(range(10).map(n => connectClient(servers[n % 2])))
const [left, right] = servers
// Two servers know of each other when each counts both.
const counts = () => Promise.all(servers.map(s => s.of('/').adapter.serverCount()))
await until(async () => (await counts()).every(n => n === 2), 'both servers')

// A join is answered before the subscription that it needs is made: nothing is said before both servers reach all.
async function reachedFromBoth(receivers, from = server => server) {
  clients.forEach(c => { c.heard.length = 0; c.probes.clear() })
  await until(() => {
    servers.forEach(server => from(server).emit('probe', server.name))
    return receivers.every(c => c.probes.size === 2)
  }, 'both servers reach all receivers')
}

await main({
  'a broadcast reaches all exactly once': async () => {
    await reachedFromBoth(clients)
    for (const n of range(100)) servers[n % 2].emit('words', n)
    await until(() => clients.every(c => c.heard.length >= 100), 'all messages')
    for (const c of clients) {
      assert.deepEqual(c.heard.filter(n => n % 2 === 0), range(50).map(n => 2 * n))
      assert.deepEqual([...c.heard].sort((a, b) => a - b), range(100))
    }
  },
  'a room hears its own messages only': async () => {
    const room = clients.slice(0, 6)
    await Promise.all(room.map(c => c.emitWithAck('join', 'room')))
    await reachedFromBoth(room, server => server.to('room'))
    for (const n of range(50)) servers[n % 2].to('room').emit('words', n)
    left.to('room').except(clients[1].id).emit('words', 'not for one')
    // A client's own words go to the others in the room.
    clients[0].emit('say', 'room', 'hello')
    await until(() => room.every((c, n) => c.heard.length >= 52 - (n < 2)), 'all messages')
    for (const [n, c] of clients.entries()) {
      const numbers = c.heard.filter(word => typeof word === 'number').sort((a, b) => a - b)
      assert.deepEqual(numbers, n < 6 ? range(50) : [])
      assert.equal(c.heard.includes('hello'), n > 0 && n < 6)
      assert.equal(c.heard.includes('not for one'), n < 6 && n !== 1)
      c.heard.length = 0
    }
    await clients[0].emitWithAck('leave', 'room')
    left.to('room').emit('words', 'after')
    await until(() => room.slice(1).every(c => c.heard.includes('after')), 'those who stayed')
    assert.deepEqual(clients[0].heard, [])
  },
  'servers ask each other and get answers': async () => {
    assert.deepEqual(await left.serverSideEmitWithAck('sum', 2, 3), [5])
    assert.deepEqual(await right.serverSideEmitWithAck('sum', 4, 3), [7])
    const sockets = await left.fetchSockets()
    assert.deepEqual(sockets.map(s => s.id).sort(), clients.map(c => c.id).sort())
    assert.equal((await right.in('room').fetchSockets()).length, 5)
    right.in(clients[2].id).socketsJoin('moved')
    await until(async () => (await left.in('moved').fetchSockets()).length === 1, 'the other server moved its client')
    if (kind !== 'sharded') assert.ok((await left.of('/').adapter.allRooms()).has('room'))
  },
  'clients of both servers acknowledge a broadcast': async () => {
    clients.forEach((c, n) => c.on('number?', answer => answer(n)))
    assert.deepEqual((await left.timeout(30_000).emitWithAck('number?')).sort(), range(10))
    assert.equal(await clients[1].emitWithAck('question', 'answer'), 'answer from server 1')
  },
  'a disconnect by the other server works': async () => {
    const gone = new Promise(resolve => clients[3].on('disconnect', resolve))
    left.in(clients[3].id).disconnectSockets(true)
    await gone
    await until(async () => (await right.fetchSockets()).length === 9, 'nine clients are left')
  },
})
